from .network import CovarianceNet as CovarianceNet
